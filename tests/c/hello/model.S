/* The packed model, in the section for constants: flash, on a part that has some. */
#ifndef MODEL
#define MODEL "model.safetensors"
#endif
    .section .rodata.model, "a"
    .balign 64
    .global model
model:
    .incbin MODEL
    .global model_end
model_end:
    .byte 0
    .section .note.GNU-stack, "", %progbits
