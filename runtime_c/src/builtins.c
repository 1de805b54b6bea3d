/* builtins.c: the functions of the runtime's own that programs may call, by name. */
#include <string.h>

#include "runtime.h"

static const lepton_registration builtins[] = {
  {"number_to_string", lpt_number_to_string, NULL},
  {"regex_full_match", lpt_regex_full_match, NULL},
  {"string_case", lpt_string_case, NULL},
  {"string_concat", lpt_string_concat, NULL},
  {"string_rank", lpt_string_rank, NULL},
  {"string_split", lpt_string_split, NULL},
  {"string_to_number", lpt_string_to_number, NULL},
  {NULL, NULL, NULL}, /* ends the list */
};

lepton_function lpt_builtin(const char *name) {
  for (const lepton_registration *row = builtins; row->name; row++)
    if (!strcmp(row->name, name)) return row->function;
  return NULL;
}
