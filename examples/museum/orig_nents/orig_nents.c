// SPDX-License-Identifier: GPL-2.0-only
/* The driver loops over the entries that it gave, not those that it got. */
#include "../entry_list.h"

static int entries_to_send(int orig_nents, int nents)
{
	return mended ? nents : orig_nents;
}

static int entries_to_unmap(int orig_nents, int nents)
{
	return orig_nents;
}
