/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "folder.h"
#include "qapi/error.h"

bool hotsnap_folder_sync(const char *folder, Error **errp)
{
    int fd = qemu_open_old(folder, O_RDONLY | O_DIRECTORY);
    bool ok = fd >= 0 && !fsync(fd);

    if (!ok) {
        error_setg_errno(errp, errno, "Cannot sync folder '%s'", folder);
    }
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}
