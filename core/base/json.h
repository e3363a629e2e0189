// JSON text: the little that writers of traces, dumps and metrics need.
//
// Pure functions, any thread.
#pragma once

#include <string>
#include <string_view>

namespace khorus::base {

// `text` as a JSON string with its quotes. UTF-8 stays as it is; bytes that are not UTF-8 become
// the code points of the same value, so that any name gives valid JSON.
std::string json_quoted(std::string_view text);

}  // namespace khorus::base
