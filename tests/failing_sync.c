/* Preloaded into PostgreSQL by tests: the next sync of a WAL file fails with EIO, once, after a switch file was put
 * where QFLARE_TEST_EIO says; the failing call takes the file away.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_due(int fd)
{
    const char *switch_file = getenv("QFLARE_TEST_EIO");
    char link[64];
    char path[4096];
    ssize_t size;

    if (switch_file == NULL || access(switch_file, F_OK) != 0) {
        return 0;
    }
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    size = readlink(link, path, sizeof path - 1);
    if (size <= 0) {
        return 0;
    }
    path[size] = '\0';
    return strstr(path, "pg_wal") != NULL && unlink(switch_file) == 0;
}

static int sync_with(const char *name, int fd)
{
    int (*next)(int);

    if (is_due(fd)) {
        errno = EIO;
        return -1;
    }
    *(void **)&next = dlsym(RTLD_NEXT, name);
    return next(fd);
}

int fsync(int fd) { return sync_with("fsync", fd); }

int fdatasync(int fd) { return sync_with("fdatasync", fd); }
