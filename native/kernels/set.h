// What a set's file includes before its anonymous namespace, in which all of its code is: nothing compiled with its
// flags may be linked into what another processor runs. So only headers without code of their own may be here.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/int4/op.h"
#include "kernels/kernels.h"
#include "kernels/linear/op.h"
#include "kernels/slots/op.h"
#include "kernels/tuning.h"
