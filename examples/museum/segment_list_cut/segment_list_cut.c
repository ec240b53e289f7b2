// SPDX-License-Identifier: GPL-2.0-only
/* The segment list is cut at 32 entries. */
#define ENTRY SZ_512	/* more entries for a buffer than the device takes */
#include "../entry_list.h"

#define SEGMENTS 32	/* of the device */

static int entries_to_send(int orig_nents, int nents)
{
	return mended ? nents : min(nents, SEGMENTS);
}

static int entries_to_unmap(int orig_nents, int nents)
{
	return orig_nents;
}
