/* From a multiboot loader to 64-bit code that may use every vector and tile register the processor has. */
.set HEADER_FLAGS, 0x10003
.section .head, "ax"
.code32
.global start
.balign 4
header:
  .long 0x1BADB002, HEADER_FLAGS, -(0x1BADB002 + HEADER_FLAGS)
  .long header, header, 0, image_end, start
start:
  cli
  movl $stack_end, %esp
  movl $directory + 3, pointers
  movl $pointers + 3, pages
  xorl %ecx, %ecx
1:
  movl %ecx, %eax
  shll $21, %eax
  orl $0x83, %eax
  movl %eax, directory(, %ecx, 8)
  incl %ecx
  cmpl $512, %ecx
  jne 1b
  movl $pages, %eax
  movl %eax, %cr3
  movl %cr4, %eax
  orl $0x40620, %eax /* PAE, OSFXSR, OSXMMEXCPT, OSXSAVE */
  movl %eax, %cr4
  movl $0xc0000080, %ecx
  rdmsr
  orl $0x101, %eax /* long mode, syscall */
  wrmsr
  movl %cr0, %eax
  andl $~4, %eax
  orl $0x80000022, %eax
  movl %eax, %cr0
  lgdt table
  ljmp $8, $wide

.code64
wide:
  movl $16, %eax
  movl %eax, %ds
  movl %eax, %es
  movl %eax, %ss
  movq $stack_end, %rsp
  movl $13, %eax
  xorl %ecx, %ecx
  cpuid
  xorl %ecx, %ecx
  xsetbv /* all that it supports */
  movl $0xc0000081, %ecx
  xorl %eax, %eax
  movl $8, %edx
  wrmsr
  incl %ecx
  movq $system_call, %rax
  xorl %edx, %edx
  wrmsr
  movl $0xc0000084, %ecx
  xorl %eax, %eax
  wrmsr
  leaq gates(%rip), %rdi
  movq $faults, %rax
  movl $32, %ecx
2:
  movw %ax, (%rdi)
  movl $0x8e000008, 2(%rdi)
  movq %rax, %rdx
  shrq $16, %rdx
  movw %dx, 6(%rdi)
  movw $0x8e00, 4(%rdi)
  addq $16, %rax
  addq $16, %rdi
  decl %ecx
  jnz 2b
  lidt interrupts
  call main
3:
  hlt
  jmp 3b

/* int guarded(int (*function)(void)): its result, or 128 + vector where it faults. */
.global guarded
guarded:
  pushq %rbx
  pushq %rbp
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  subq $8, %rsp
  movq %rsp, resume(%rip)
  call *%rdi
back:
  movq resume(%rip), %rsp
  addq $8, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbp
  popq %rbx
  ret

.balign 16
faults:
.set vector, 0
.rept 32
.balign 16
  movl $128 + vector, %eax
  jmp fault
.set vector, vector + 1
.endr
fault:
  movq (%rsp), %rdx
  movq 8(%rsp), %rcx
  movq %rdx, fault_words(%rip)
  movq %rcx, fault_words + 8(%rip)
  cld
  jmp back

/* arch_prctl(ARCH_REQ_XCOMP_PERM, 18), the only system call that compiled kernels make. */
system_call:
  movq %rax, asked(%rip)
  movq %rdi, asked + 8(%rip)
  movq %rsi, asked + 16(%rip)
  xorl %eax, %eax
  pushq %r11
  popfq
  jmp *%rcx

.data
.balign 16
table: .word table_end - descriptors - 1
  .long descriptors, 0
.balign 16
descriptors: .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
table_end:
interrupts: .word 511
  .quad gates
.bss
.balign 4096
pages: .skip 4096
pointers: .skip 4096
directory: .skip 4096
gates: .skip 512
resume: .skip 8
.global fault_words, asked
fault_words: .skip 16
asked: .skip 24
.balign 64
.skip 262144
stack_end:
.section .note.GNU-stack, "", @progbits
