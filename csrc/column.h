/* The checks of columns that every batch call makes before it touches an output. */
#ifndef QFL_COLUMN_H
#define QFL_COLUMN_H

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
