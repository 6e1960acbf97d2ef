/* From reset to newlib's start, on a Cortex-M with or without a floating-point unit: the vector
 * table, and what must be switched on before C may begin. */
#include <stdint.h>

extern uint32_t stack_top;
extern void _start(void);

void reset(void);
void fault(void);
unsigned long stack_bytes(void);

/* What the stack is painted with, and how much of it. */
#define PAINT 0xA5A5A5A5u
#define PAINTED_WORDS (64 * 1024 / 4)

__attribute__((section(".vectors"), used)) static const uintptr_t vectors[16] = {
    (uintptr_t)&stack_top, (uintptr_t)reset, (uintptr_t)fault, (uintptr_t)fault,
    (uintptr_t)fault,      (uintptr_t)fault, (uintptr_t)fault,
};

void reset(void)
{
    /* Not the words that this function itself may use. */
    volatile uint32_t *word = &stack_top - PAINTED_WORDS;
    while (word < &stack_top - 32)
        *word++ = PAINT;
#if defined(__ARM_FP)
    /* CPACR: full access to coprocessors 10 and 11. */
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20;
    __asm volatile("dsb\nisb");
#endif
    _start();
}

/* The most bytes of the stack that were ever used. */
unsigned long stack_bytes(void)
{
    const volatile uint32_t *word = &stack_top - PAINTED_WORDS;
    while (word < &stack_top && *word == PAINT)
        word++;
    return (unsigned long)(&stack_top - word) * 4;
}

void fault(void)
{
    /* Semihosting's SYS_EXIT_EXTENDED with an error. */
    static const uint32_t block[2] = {0x20023, 2};
    register uint32_t operation __asm("r0") = 0x20;
    register const uint32_t *argument __asm("r1") = block;
    __asm volatile("bkpt 0xAB" : "+r"(operation) : "r"(argument) : "memory");
    for (;;) {
    }
}
