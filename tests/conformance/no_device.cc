// OnDevice where no backend of a device was built.
#include "tests/conformance/on_device.h"

namespace khorus::conformance {

std::unique_ptr<OnDevice> OnDevice::make(int) { return nullptr; }

}  // namespace khorus::conformance
