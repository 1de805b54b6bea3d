#ifndef LPT_TESTS_CHECK_H_
#define LPT_TESTS_CHECK_H_
/* check.h: the smallest test harness: a failed CHECK says where and makes the program exit with 1. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) {                                                         \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);           \
      failures++;                                                               \
    }                                                                           \
  } while (0)

#define CHECK_TEXT(text, part)                                                  \
  do {                                                                          \
    if (!strstr((text), (part))) {                                              \
      fprintf(stderr, "%s:%d: \"%s\" lacks \"%s\"\n", __FILE__, __LINE__, (text), (part)); \
      failures++;                                                               \
    }                                                                           \
  } while (0)

#define RUN(test)                                                               \
  do {                                                                          \
    int before = failures;                                                      \
    test();                                                                     \
    printf("%-40s %s\n", #test, failures == before ? "ok" : "FAILED");          \
  } while (0)

#endif
