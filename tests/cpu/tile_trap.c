/* AMX on processors without AMX: every tile instruction raises SIGILL there, and this handler executes it.
 *
 * The code under test is the real machine code, bytes and all. What an AMX processor would refuse is counted as a
 * fault, with the first one described in trap_message(): tiles that are not configured, palettes with reserved bits,
 * shapes that do not agree, operands that coincide. Semantics: Intel SDM volume 2, "Intel AMX instruction set".
 */
#define _GNU_SOURCE
#include <immintrin.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

enum { TILES = 8, ROWS = 16, BYTES = 64 };
enum { LDTILECFG, TILERELEASE, TILEZERO, TILELOADD, TILELOADDT1, TILESTORED, TDPBF16PS, TDPBSSD, KINDS };

static __thread struct {
    int palette;
    int rows[TILES], bytes[TILES];
    uint8_t data[TILES][ROWS][BYTES];
} tile;

static uint64_t counts[KINDS];
static uint64_t faults;

/* One executed instruction: tile numbers for products, address and distance of rows for moves. */
typedef struct {
    int32_t kind, reg, rm, vvvv, rows, bytes;
    uint64_t address;
    int64_t stride;
} Record;
static Record *records;
static uint64_t record_limit, record_count;
static char message[256];
static struct sigaction before;

static void fault(const char *what, int number) {
    if (__atomic_fetch_add(&faults, 1, __ATOMIC_RELAXED) == 0)
        snprintf(message, sizeof message, "%s (tile %d)", what, number);
}

static int configured(int number) {
    if (number < TILES && tile.palette == 1 && tile.rows[number] && tile.bytes[number])
        return 1;
    fault("a tile that is not configured is used", number);
    return 0;
}

static void configure(const uint8_t *memory) {
    memset(&tile, 0, sizeof tile);
    if (memory[0] == 0)
        return;
    if (memory[0] != 1 || memory[1] != 0)
        fault("the palette is not 1, or the start row not 0", -1);
    for (int i = 2; i < 64; i++)
        if ((i < 16 || (i >= 32 && i < 48) || i >= 56) && memory[i])
            fault("a reserved byte of the palette is set", i);
    for (int i = 0; i < TILES; i++) {
        int bytes = memory[16 + 2 * i] | memory[17 + 2 * i] << 8, rows = memory[48 + i];
        if (bytes > BYTES || rows > ROWS || (bytes == 0) != (rows == 0))
            fault("a tile is larger than 16 rows of 64 bytes, or has only one extent", i);
        tile.bytes[i] = bytes < BYTES ? bytes : BYTES;
        tile.rows[i] = rows < ROWS ? rows : ROWS;
    }
    tile.palette = 1;
}

static void load(int number, const uint8_t *memory, int64_t stride) {
    if (!configured(number))
        return;
    memset(tile.data[number], 0, sizeof tile.data[number]);
    for (int row = 0; row < tile.rows[number]; row++)
        memcpy(tile.data[number][row], memory + row * stride, (size_t)tile.bytes[number]);
}

static void store(int number, uint8_t *memory, int64_t stride) {
    if (!configured(number))
        return;
    for (int row = 0; row < tile.rows[number]; row++)
        memcpy(memory + row * stride, tile.data[number][row], (size_t)tile.bytes[number]);
}

static float widened(const uint8_t *at) {
    uint32_t bits = (uint32_t)at[0] << 16 | (uint32_t)at[1] << 24;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static int agree(int c, int a, int b) {
    if (!configured(a) || !configured(b) || !configured(c))
        return 0;
    if (a == b || a == c || b == c)
        return fault("operands of a product coincide", c), 0;
    if (tile.bytes[a] % 4 || tile.bytes[b] % 4 || tile.bytes[c] % 4 || tile.rows[c] != tile.rows[a]
        || tile.bytes[a] / 4 != tile.rows[b] || tile.bytes[c] != tile.bytes[b])
        return fault("shapes of a product do not agree", c), 0;
    return 1;
}

static void multiply_bf16(int c, int a, int b) {
    if (!agree(c, a, b))
        return;
    _mm_setcsr(0x1f80 | 0x8040); /* denormals are zero, round to nearest even; sigreturn restores the register */
    for (int m = 0; m < tile.rows[c]; m++) {
        float even[ROWS] = {0}, odd[ROWS] = {0}, sums[ROWS];
        for (int k = 0; k < tile.bytes[a] / 4; k++) {
            float a0 = widened(tile.data[a][m] + 4 * k), a1 = widened(tile.data[a][m] + 4 * k + 2);
            for (int n = 0; n < tile.bytes[c] / 4; n++) {
                even[n] += a0 * widened(tile.data[b][k] + 4 * n);
                odd[n] += a1 * widened(tile.data[b][k] + 4 * n + 2);
            }
        }
        memcpy(sums, tile.data[c][m], sizeof sums);
        for (int n = 0; n < tile.bytes[c] / 4; n++)
            sums[n] += even[n] + odd[n];
        memcpy(tile.data[c][m], sums, sizeof sums);
    }
}

static void multiply_i8(int c, int a, int b) {
    if (!agree(c, a, b))
        return;
    for (int m = 0; m < tile.rows[c]; m++) {
        uint32_t sums[ROWS];
        memcpy(sums, tile.data[c][m], sizeof sums);
        for (int k = 0; k < tile.bytes[a]; k++)
            for (int n = 0; n < tile.bytes[c] / 4; n++)
                sums[n] += (uint32_t)((int8_t)tile.data[a][m][k] * (int8_t)tile.data[b][k / 4][4 * n + k % 4]);
        memcpy(tile.data[c][m], sums, sizeof sums);
    }
}

/* Number of register i of the instruction set in the saved registers. */
static const int SAVED[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

typedef struct {
    int reg, rm, vvvv, pp, opcode, in_memory, has_index;
    uint8_t *base;   /* base + displacement */
    int64_t index;   /* scaled index: the distance of rows where there is one */
    size_t length;
} Decoded;

static int decode(const uint8_t *code, const greg_t *registers, Decoded *d) {
    if (code[0] != 0xc4 || (code[1] & 31) != 2 || (code[2] & 0x84))
        return 0; /* not VEX.128.0F38.W0 */
    int r = code[1] & 0x80 ? 0 : 8, x = code[1] & 0x40 ? 0 : 8, b = code[1] & 0x20 ? 0 : 8;
    d->vvvv = ~(code[2] >> 3) & 15, d->pp = code[2] & 3, d->opcode = code[3];
    int modrm = code[4], mod = modrm >> 6;
    d->reg = (modrm >> 3 & 7) | r, d->rm = (modrm & 7) | b, d->in_memory = mod != 3, d->has_index = 0, d->index = 0;
    d->length = 5;
    if (!d->in_memory)
        return 1;
    int64_t base = 0, displacement = 0;
    if ((modrm & 7) == 4) {
        int sib = code[5], number = (sib >> 3 & 7) | x;
        d->length = 6;
        d->has_index = number != 4;
        if (d->has_index)
            d->index = registers[SAVED[number]] << (sib >> 6);
        if ((sib & 7) == 5 && mod == 0)
            mod = 4; /* no base, 32 bits of displacement */
        else
            base = registers[SAVED[(sib & 7) | b]];
    } else if ((modrm & 7) == 5 && mod == 0) {
        base = registers[REG_RIP] + 9, mod = 4;
    } else {
        base = registers[SAVED[(modrm & 7) | b]];
    }
    if (mod == 1)
        displacement = (int8_t)code[d->length], d->length += 1;
    if (mod == 2 || mod == 4) {
        int32_t wide;
        memcpy(&wide, code + d->length, 4);
        displacement = wide, d->length += 4;
    }
    d->base = (uint8_t *)(base + displacement);
    return 1;
}

static int kind_of(const Decoded *d) {
    switch (d->opcode << 4 | d->pp << 1 | d->in_memory) {
    case 0x49 << 4 | 0 << 1 | 1: return LDTILECFG;
    case 0x49 << 4 | 0 << 1 | 0: return TILERELEASE;
    case 0x49 << 4 | 3 << 1 | 0: return TILEZERO;
    case 0x4b << 4 | 3 << 1 | 1: return TILELOADD;
    case 0x4b << 4 | 1 << 1 | 1: return TILELOADDT1;
    case 0x4b << 4 | 2 << 1 | 1: return TILESTORED;
    case 0x5c << 4 | 2 << 1 | 0: return TDPBF16PS;
    case 0x5e << 4 | 3 << 1 | 0: return TDPBSSD;
    }
    return KINDS;
}

static void perform(int kind, const Decoded *d) {
    switch (kind) {
    case LDTILECFG: configure(d->base + d->index); break;
    case TILERELEASE: memset(&tile, 0, sizeof tile); break;
    case TILEZERO: if (configured(d->reg)) memset(tile.data[d->reg], 0, sizeof tile.data[0]); break;
    case TILELOADD:
    case TILELOADDT1: load(d->reg, d->base, d->index); break;
    case TILESTORED: store(d->reg, d->base, d->index); break;
    case TDPBF16PS: multiply_bf16(d->reg, d->rm, d->vvvv); break;
    case TDPBSSD: multiply_i8(d->reg, d->rm, d->vvvv); break;
    }
}

static void record(int kind, const Decoded *d) {
    uint64_t at = __atomic_fetch_add(&record_count, 1, __ATOMIC_RELAXED);
    if (at >= record_limit)
        return;
    int number = d->reg & (TILES - 1);
    records[at] = (Record){kind, d->reg, d->rm, d->vvvv, tile.rows[number], tile.bytes[number],
                           (uint64_t)(uintptr_t)d->base, d->index};
}

static void handle(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    Decoded d = {0};
    int kind = decode((const uint8_t *)registers[REG_RIP], registers, &d) ? kind_of(&d) : KINDS;
    if (kind == KINDS) { /* not ours: let it happen again, to whoever listened before */
        sigaction(SIGILL, &before, NULL);
        return;
    }
    __atomic_fetch_add(&counts[kind], 1, __ATOMIC_RELAXED);
    perform(kind, &d);
    if (records)
        record(kind, &d);
    registers[REG_RIP] += (greg_t)d.length;
}

int trap_install(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    memset(counts, 0, sizeof counts);
    faults = 0, message[0] = 0;
    return sigaction(SIGILL, &action, &before);
}

/* Keep the first ``limit`` instructions executed from now on; 0 to stop. Returns how many ran since the last call. */
uint64_t trap_record(Record *memory, uint64_t limit) {
    uint64_t ran = record_count;
    records = limit ? memory : NULL, record_limit = limit, record_count = 0;
    return ran;
}

int trap_remove(void) { return sigaction(SIGILL, &before, NULL); }
uint64_t trap_count(int kind) { return counts[kind]; }
uint64_t trap_faults(void) { return faults; }
const char *trap_message(void) { return message; }
int trap_configured(void) { return tile.palette; }
