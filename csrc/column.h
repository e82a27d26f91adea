/* Columns and rows of a batch: the checks that every call makes before it touches an output, and the
 * pointers that a group of rows needs. */
#ifndef QFL_COLUMN_H
#define QFL_COLUMN_H

#include "keccak.h"
#include "qflare.h"

static inline int column_is_good(const qfl_column *column, size_t count)
{
    if (column->data == NULL && column->width != 0) {
        return 0;
    }
    if (column->stride == 0) {
        return 1;
    }
    /* The last row's end must be a size: (count - 1) * stride + width. */
    return column->stride >= column->width && column->width <= SIZE_MAX - column->stride &&
           (count <= 1 || column->stride <= (SIZE_MAX - column->width) / (count - 1));
}

static inline int columns_are_good(const qfl_column *columns, size_t column_count, size_t count)
{
    if (column_count > QFL_COLUMNS_MAX || (columns == NULL && column_count != 0)) {
        return 0;
    }
    for (size_t i = 0; i < column_count; i++) {
        if (!column_is_good(&columns[i], count)) {
            return 0;
        }
    }
    return 1;
}

/* The value of one row; null stays null, for adding to it is undefined. */
static inline const uint8_t *column_row(const qfl_column *column, size_t row)
{
    return column->width == 0 ? NULL : column->data + row * column->stride;
}

/* The values of a group's rows. */
static inline void column_rows(const uint8_t *rows[KECCAK_WIDTH_MAX], const qfl_column *column,
                               const keccak_group *group)
{
    for (size_t state = 0; state < group->engine->width; state++) {
        rows[state] = column_row(column, keccak_group_row(group, state));
    }
}

/* Absorb a group's rows of one column. */
static inline void column_absorb(keccak_sponge *sponge, const qfl_column *column,
                                 const keccak_group *group)
{
    if (column->stride == 0) {
        keccak_absorb_shared(sponge, column->data, column->width);
        return;
    }
    const uint8_t *rows[KECCAK_WIDTH_MAX];
    column_rows(rows, column, group);
    keccak_absorb(sponge, rows, column->width);
}

/* Where a group's rows of `size` bytes begin in `out`. */
static inline void output_rows(uint8_t *rows[KECCAK_WIDTH_MAX], uint8_t *out, size_t size,
                               const keccak_group *group)
{
    for (size_t state = 0; state < group->engine->width; state++) {
        rows[state] = out + keccak_group_row(group, state) * size;
    }
}

/* Whether an array of `count` rows of `size` bytes can exist. */
static inline int rows_fit(size_t size, size_t count)
{
    return count == 0 || size <= SIZE_MAX / count;
}

static inline int count_is_good(size_t count)
{
    return count <= QFL_BATCH_MAX;
}

#endif
