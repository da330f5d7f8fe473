/* Tables are packed, in the block format of LZ4, and unpacked when the library is loaded: before any constructor of a
 * program that it is linked into, which may use it. */
static struct {
    t_word words[T_WORDS], sizes[T_STATES];
    char names[T_NAMES];
} t_data;
static struct { t_word name, bytes, place, first; } t_states[T_STATES + 1];
#define t_words t_data.words
typedef t_word t_step;
#define T_WORD(s) (*(s)++)
#define t_names t_data.names
/* As in the table of steps: what those of one kind and number have in common, and their words. */
#define T_HEAD(head) ((head) >> 16 << 2 | ((head) & 3u))
#define T_LENGTH(head) (1 + ((head) >> 2 & 16383u) + (((head) & 3u) == 2u))
#define T_ALIGNED(n) (((n) + T_ALIGN - 1) / T_ALIGN * T_ALIGN)

/* A length; that of 15 goes on in bytes up to one that is not 255. */
static size_t t_length(const unsigned char **s, size_t n) {
    unsigned char more = n == 15 ? 255 : 0;
    while (more == 255) n += more = *(*s)++;
    return n;
}

static __attribute__((constructor(101), cold)) void t_open(void) {
    const unsigned char *s = t_packed, *const end = s + sizeof t_packed;
    unsigned char *to = (unsigned char *)&t_data;
    t_word i, n, own = 0, first = 0, name = 0;
    /* Literals, then a piece of what is there already; literals alone at the end. */
    for (;;) {
        const unsigned token = *s++;
        size_t count = t_length(&s, token >> 4), back;
        while (count--) *to++ = *s++;
        if (s == end) break;
        back = (size_t)s[0] | (size_t)s[1] << 8;
        s += 2;
        for (count = t_length(&s, token & 15) + 4; count--; to++) *to = *(to - back);
    }
    /* Words are distances from those of the last step of the same kind and number. */
    for (i = 0; i < T_WORDS; i += n) {
        static t_word last[T_HEADS];
        t_word *const begin = last + T_HEAD(t_words[i]), j;
        n = T_LENGTH(t_words[i]);
        for (j = 1; *begin && j < n; j++) t_words[i + j] += t_words[*begin - 1 + j];
        *begin = i + 1;
    }
    /* Tensors lie one after another: those of the context, and first values among the weights. */
    for (i = 0; i < T_STATES; i++) {
        const t_word kind = t_data.sizes[i] & 3, bytes = t_data.sizes[i] >> 2;
        t_states[i].name = name;
        t_states[i].bytes = bytes;
        t_states[i].place = kind ? own << 2 | kind : 0;
        t_states[i].first = first;
        while (t_names[name++]) { }
        if (kind) own = T_ALIGNED(own + bytes);
        if (kind < 2) first = T_ALIGNED(first + bytes);
    }
}
