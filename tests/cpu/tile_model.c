/* What a trace of tile instructions would cost on a processor with AMX: caches by LRU, throughput by window.
 *
 * Only tile instructions are seen: staging copies and the epilogue's vector work are not. Rates are measured ones (see
 * tile_model.py), in cycles; a window of so many products is as long as its busiest resource.
 */
#include <stdint.h>
#include <string.h>

enum { LINE = 64, L1_SETS = 64, L1_WAYS = 12, L2_SETS = 2048, L2_WAYS = 16 };
enum { TILELOADD = 3, TILELOADDT1 = 4, TILESTORED = 5, TDPBF16PS = 6, TDPBSSD = 7 };

typedef struct {
    int32_t kind, reg, rm, vvvv, rows, bytes;
    uint64_t address;
    int64_t stride;
} Record;

typedef struct {
    double cube, l1, l2, l3; /* cycles of a product (however few its rows), of a line from L1, from L2, from L3 */
} Rates;

typedef struct {
    double cycles;
    uint64_t products, loads, l1, l2, l3; /* lines found in each level */
} Result;

static uint64_t l1[L1_SETS][L1_WAYS], l2[L2_SETS][L2_WAYS];

/* Whether the line is in the set, which it then leads; where it is not, it is put there if ``keep``. */
static int touch(uint64_t *set, int ways, uint64_t line, int keep) {
    int at = 0;
    while (at < ways && set[at] != line)
        at++;
    if (at == ways && !keep)
        return 0;
    int found = at < ways;
    memmove(set + 1, set, sizeof *set * (size_t)(found ? at : ways - 1));
    set[0] = line;
    return found;
}

void model_forget(void) {
    memset(l1, 0, sizeof l1);
    memset(l2, 0, sizeof l2);
}

Result model_run(const Record *records, uint64_t count, Rates rates, uint64_t window) {
    Result r = {0, 0, 0, 0, 0, 0};
    double cube = 0, near = 0, middle = 0, far = 0;
    for (uint64_t i = 0; i < count; i++) {
        const Record *it = records + i;
        if (it->kind == TDPBF16PS || it->kind == TDPBSSD)
            r.products++, cube += rates.cube;
        if (it->kind >= TILELOADD && it->kind <= TILESTORED) {
            r.loads += it->kind != TILESTORED;
            for (int row = 0; row < it->rows; row++) {
                uint64_t from = it->address + (uint64_t)(row * it->stride), to = from + (uint64_t)it->bytes - 1;
                for (uint64_t line = from / LINE; line <= to / LINE; line++) {
                    near += rates.l1;
                    int first = touch(l1[line % L1_SETS], L1_WAYS, line, it->kind != TILELOADDT1);
                    int second = first || touch(l2[line % L2_SETS], L2_WAYS, line, 1);
                    r.l1 += first, r.l2 += !first && second, r.l3 += !second;
                    middle += !first ? rates.l2 : 0, far += !second ? rates.l3 : 0;
                }
            }
        }
        if (i + 1 == count || (r.products && r.products % window == 0 && it->kind >= TDPBF16PS)) {
            double most = cube > near ? cube : near;
            most = most > middle ? most : middle;
            r.cycles += most > far ? most : far;
            cube = near = middle = far = 0;
        }
    }
    return r;
}
