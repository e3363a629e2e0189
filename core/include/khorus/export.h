// KHORUS_API marks what libkhorus.so exports; everything else in it is hidden.
#pragma once

#define KHORUS_API [[gnu::visibility("default")]]
