// SPDX-License-Identifier: GPL-2.0-only
/* A list is unmapped with the number that the map returned. */
#include "../entry_list.h"

static int entries_to_send(int orig_nents, int nents)
{
	return nents;
}

static int entries_to_unmap(int orig_nents, int nents)
{
	return mended ? orig_nents : nents;
}
