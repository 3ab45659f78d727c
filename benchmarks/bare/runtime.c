/* What compiled kernels need of a C library, and the loop over the cases. Bytes go to port 0xe9. */
#include "cases.h"

static unsigned char *next;
extern unsigned long fault_words[2], asked[3];
int guarded(int (*function)(void));

void *memset(void *to, int value, size_t size) {
  void *at = to;
  __asm__ volatile("rep stosb" : "+D"(at), "+c"(size) : "a"(value) : "memory");
  return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t size) {
  void *at = to;
  __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(size)::"memory");
  return to;
}

void free(void *memory) { (void)memory; }

/* Memory from 256 MiB on, filled with what no kernel may rely on: as integers, halves and floats. */
void *aligned_alloc(size_t alignment, size_t size) {
  unsigned char *found = (unsigned char *)(((size_t)next + alignment - 1) / alignment * alignment);
  next = found + size;
  return memset(found, 0xcb, size);
}

static void put(const void *from, size_t size) {
  __asm__ volatile("rep outsb" : "+S"(from), "+c"(size) : "d"(0xe9) : "memory");
}

static void put_number(unsigned long value) {
  char digits[24];
  int at = 24;
  do digits[--at] = (char)('0' + value % 10);
  while (value /= 10);
  put(digits + at, (size_t)(24 - at));
  put(" ", 1);
}

static unsigned long instructions(void) {
  unsigned low, high;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
  return (unsigned long)high << 32 | low;
}

static unsigned long started, taken;
void begin(void) { started = instructions(); }
void end(void) { taken = instructions() - started; }

int main(void) {
  for (int i = 0; i < CASES; i++) {
    next = (unsigned char *)0x10000000;
    taken = asked[0] = asked[1] = asked[2] = fault_words[0] = fault_words[1] = 0;
    int status = guarded(cases[i].function);
    put("\n@case ", 7);
    put_number((unsigned long)i);
    put_number((unsigned long)status);
    put_number(taken);
    for (int k = 0; k < 3; k++) put_number(asked[k]);
    for (int k = 0; k < 2; k++) put_number(fault_words[k]);
    put_number(status ? 0 : cases[i].size);
    put("\n", 1);
    if (!status) put(cases[i].results, cases[i].size);
  }
  put("\n@end\n", 6);
  __asm__ volatile("outsb" ::"S"("S"), "d"(0x8900));
  for (const char *c = "hutdown"; *c; c++) __asm__ volatile("outb %b0, %w1" ::"a"(*c), "d"(0x8900));
  for (;;) __asm__ volatile("hlt");
}
