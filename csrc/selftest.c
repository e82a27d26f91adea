#include "qflare.h"
qfl_status qfl_selftest(qfl_selftest_report *report) { (void)report; return QFL_ERR_BACKEND; }
