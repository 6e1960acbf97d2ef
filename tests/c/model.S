/* The packed model MODEL, in the section for constants: flash, on a part that has some. */
    .section .rodata.model, "a"
    .balign 64
    .global model
model:
    .incbin MODEL
    .global model_end
model_end:
    .byte 0
#if defined(__linux__)
    .section .note.GNU-stack, "", %progbits
#endif
