#include "tools/report/html.h"

#include <cmath>
#include <cstdio>

#include "engine/text/utf8.h"

namespace adder::tools {
