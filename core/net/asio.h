// The one door to Boost.Asio: the parts that core/net and core/launch use, in the order of includes
// that Boost 1.74 needs under C++20 on g++ 12 (<utility> first).
//
// Asio is used as reactor and timer queue only: sockets are made, read and written with plain
// system calls (socket.h), because Asio 1.74 neither sets CLOEXEC nor knows the fork guard.
#pragma once

// Every io_context here has one thread, and what other threads post passes through its mutex: the
// fences are not needed, and ThreadSanitizer does not know them.
#define BOOST_ASIO_DISABLE_FENCED_BLOCK
#define BOOST_ASIO_NO_DEPRECATED

#include <utility>
// clang-format off
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
// clang-format on

namespace khorus::net {
namespace asio = boost::asio;
using ErrorCode = boost::system::error_code;
}  // namespace khorus::net
