/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef HOTSNAP_FOLDER_H
#define HOTSNAP_FOLDER_H

/* Makes the names in @folder durable. Worker: it waits for storage. */
bool hotsnap_folder_sync(const char *folder, Error **errp);

#endif
