/* The random source, the inputs of a thread, the wipe and the self-test.
 * SPDX-License-Identifier: Apache-2.0 */
#include "expect.h"
#include "qflare.h"

#include <string.h>

int main(void)
{
    static const uint8_t input[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    uint8_t out[64];
    uint8_t again[64];
    qfl_selftest_report report = {0, 0, 0, 0, 0, 0};

    qfl_random_install();
    memset(out, 0xa5, sizeof out);
    EXPECT(qfl_random_bytes(out, QFL_RANDOM_MAX + 1) == QFL_ERR_COUNT && all_bytes_are(out, sizeof out, 0xa5));
    EXPECT(qfl_random_bytes(NULL, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_random_bytes(NULL, 0) == QFL_OK);
    EXPECT(qfl_random_bytes(out, sizeof out) == QFL_OK && qfl_random_bytes(again, sizeof again) == QFL_OK);
    EXPECT(memcmp(out, again, sizeof out) != 0);

    EXPECT(qfl_random_input_begin(NULL, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_random_input_begin(input, sizeof input) == QFL_OK);
    EXPECT(qfl_random_input_begin(input, sizeof input) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_random_bytes(out, 5) == QFL_OK && memcmp(out, input, 5) == 0);
    memset(out, 0xa5, sizeof out);
    EXPECT(qfl_random_bytes(out, 4) == QFL_ERR_ENTROPY && all_bytes_are(out, 4, 0) && out[4] == 0xa5);
    EXPECT(qfl_random_bytes(out, 1) == QFL_ERR_ENTROPY);
    EXPECT(qfl_random_input_end() == 0);

    EXPECT(qfl_random_input_begin(input, sizeof input) == QFL_OK);
    EXPECT(qfl_random_bytes(out, 3) == QFL_OK);
    EXPECT(qfl_random_input_end() == 5);

    qfl_random_fail_for_test(1);
    memset(out, 0xa5, sizeof out);
    EXPECT(qfl_random_bytes(out, sizeof out) == QFL_ERR_ENTROPY && all_bytes_are(out, sizeof out, 0));
    qfl_random_fail_for_test(0);
    EXPECT(qfl_random_bytes(out, sizeof out) == QFL_OK && !all_bytes_are(out, sizeof out, 0));

    qfl_zeroize(out, sizeof out - 1);
    EXPECT(all_bytes_are(out, sizeof out - 1, 0));
    qfl_zeroize(NULL, 0);

    EXPECT(qfl_selftest(NULL) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_selftest(&report) == QFL_OK);
    EXPECT(report.kem && report.sig44 && report.sig87 && report.random_used);
    EXPECT(strlen(qfl_liboqs_version()) > 0 && strlen(qfl_liboqs_origin()) > 0 && strlen(qfl_liboqs_features()) > 0);
    return expect_result("test_random");
}
