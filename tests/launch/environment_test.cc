// Which variables go to other hosts.
#include "core/launch/environment.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace khorus::launch {
namespace {

TEST(Environment, SecretsAndWhatIsNotListedStayHere) {
  const Variables variables = {{"KHORUS_LOG_LEVEL", "info"},
                               {"KHORUS_KEY_FILE", "/k"},
                               {"HOROVOD_SECRET_KEY", "s"},
                               {"HOROVOD_RANK", "3"},
                               {"HOROVOD_TIMELINE", "t"},
                               {"PATH", "/bin"},
                               {"PATHS", "x"},
                               {"HOME", "/root"},
                               {"AWS_SECRET_ACCESS_KEY", "s"},
                               {"NCCL_DEBUG", "INFO"},
                               {"SSH_AUTH_SOCK", "/s"},
                               {"MINE", "1"}};
  EXPECT_EQ(
      names_to_forward(variables, {}),
      (std::vector<std::string>{"HOROVOD_TIMELINE", "KHORUS_LOG_LEVEL", "NCCL_DEBUG", "PATH"}));
  EXPECT_EQ(names_to_forward(variables, {"MINE", "ABSENT", "KHORUS_KEY_FILE"}).size(), 5u)
      << "a key does not go even when it is asked for";
}

TEST(Environment, CoresAreSharedOnce) {
  Variables variables;
  EXPECT_FALSE(share_cores(100000, &variables).empty());
  EXPECT_EQ(variables["OMP_NUM_THREADS"], "1");
  variables["OMP_NUM_THREADS"] = "7";
  EXPECT_TRUE(share_cores(1, &variables).empty());
  EXPECT_EQ(variables["OMP_NUM_THREADS"], "7");
}

TEST(Environment, TheJobThatThisProcessIsARankOfIsNotInherited) {
  const char* const names[] = {"KHORUS_RANK", "KHORUS_STORE", "KHORUS_KEY_FD", "KHORUS_LAUNCHER"};
  for (const char* name : names) ::setenv(name, "1", 1);
  ::setenv("KHORUS_LOG_LEVEL", "info", 1);
  const Variables inherited = inherited_variables();
  for (const char* name : names) {
    EXPECT_EQ(inherited.count(name), 0u) << name;
    ::unsetenv(name);
  }
  EXPECT_EQ(inherited.count("KHORUS_LOG_LEVEL"), 1u);
  ::unsetenv("KHORUS_LOG_LEVEL");
}

}  // namespace
}  // namespace khorus::launch
