// What --as-horovod needs of the Python package.
#pragma once

#include <string>

#include "khorus/status.h"

namespace khorus::launch {

// The folder that makes `import horovod` find Khorus when it is in PYTHONPATH. `python_package` is
// the folder of the package khorus; empty: it is looked for beside this executable, as pip installs
// it or as it lies in a build folder. Unavailable: it is not there, and where it was looked for.
Result<std::string> horovod_names(const std::string& python_package);

}  // namespace khorus::launch
