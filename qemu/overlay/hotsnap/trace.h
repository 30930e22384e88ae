#include "trace/trace-hotsnap.h"
