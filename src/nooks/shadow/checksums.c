/* The CRC32C of each of many blocks (checksums.py), four blocks at a time: the instruction takes three cycles, and
 * another one can begin in each (Intel 64 and IA-32 Architectures Optimization Reference Manual, CRC32).
 */
#include <stddef.h>
#include <stdint.h>

enum { WORDS = 4096 / sizeof(uint64_t), LANES = 4 };

#define SUM(sum, word) sum = (uint32_t)__builtin_ia32_crc32di(sum, word)

int nooks_can_sum(void)
{
    return __builtin_cpu_supports("sse4.2") != 0;
}

__attribute__((target("sse4.2"))) void nooks_sum(const uint64_t *data, size_t blocks, uint32_t *sums)
{
    for (; blocks >= LANES; blocks -= LANES, data += LANES * WORDS, sums += LANES) {
        uint32_t a = ~0U, b = ~0U, c = ~0U, d = ~0U;
        for (size_t at = 0; at < WORDS; at++) {
            SUM(a, data[at]);
            SUM(b, data[at + WORDS]);
            SUM(c, data[at + 2 * WORDS]);
            SUM(d, data[at + 3 * WORDS]);
        }
        sums[0] = ~a, sums[1] = ~b, sums[2] = ~c, sums[3] = ~d;
    }
    for (; blocks; blocks--, data += WORDS, sums++) {
        uint32_t sum = ~0U;
        for (size_t at = 0; at < WORDS; at++)
            SUM(sum, data[at]);
        *sums = ~sum;
    }
}
