/* Vectors of the processor, for the tiles of products. */
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#define T_FMA4(a, b, c) vfmaq_f32(c, a, b)
#endif
#define T_READ1(p) (*(p))
#define T_FULL1(x) (x)
#define T_MUL1(a, b) ((a) * (b))
#define T_WRITE1(p, x) (*(p) = (x))

