// Makes a net know the layers that ncnn does not have.
#pragma once

#include <ncnn/net.h>

#include "setting.h"

namespace mpsplit {

void add_layers(ncnn::Net& net, Setting& setting);  // the setting outlives the net

}  // namespace mpsplit
