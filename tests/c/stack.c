/* How much of the stack is ever used, on a part: it is painted before main, and looked at
 * afterwards. */
#include <stdint.h>

/* What the stack is painted with, and how much of it. */
#define PAINT 0xA5A5A5A5u
#define PAINTED_BYTES (64u * 1024)

/* Bytes that the painter itself may be using. */
#define SPARED_BYTES 128u

unsigned long stack_bytes(void);

static uintptr_t stack_begin;

/* Before main, when newlib has set the stack's place. */
__attribute__((constructor)) static void paint_stack(void)
{
    uintptr_t at;
    stack_begin = (uintptr_t)__builtin_frame_address(0) & ~(uintptr_t)3;
    for (at = stack_begin - PAINTED_BYTES; at < stack_begin - SPARED_BYTES; at += 4)
        *(volatile uint32_t *)at = PAINT;
}

/* The most bytes of the stack that were ever used from there on. */
unsigned long stack_bytes(void)
{
    uintptr_t at = stack_begin - PAINTED_BYTES;
    while (at < stack_begin && *(const volatile uint32_t *)at == PAINT)
        at += 4;
    return (unsigned long)(stack_begin - at);
}
