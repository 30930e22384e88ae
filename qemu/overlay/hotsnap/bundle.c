/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "bundle.h"
#include "folder.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"

bool hotsnap_bundle_make_folder(const char *folder, Error **errp)
{
    if (g_mkdir_with_parents(folder, 0700) < 0) {
        error_setg_errno(errp, errno, "Cannot create folder '%s', which all "
                         "members must be able to write to", folder);
        return false;
    }
    return true;
}

static bool write_durably(const char *path, const char *text, Error **errp)
{
    size_t size = strlen(text);
    int fd = qemu_open_old(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    bool ok = fd >= 0 && qemu_write_full(fd, text, size) == size &&
              !fsync(fd);

    if (!ok) {
        error_setg_errno(errp, errno, "Cannot write '%s'", path);
    }
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

bool hotsnap_bundle_publish(const char *folder, const char *tag,
                            const char *manifest, Error **errp)
{
    g_autofree char *partial = g_path_get_dirname(folder);
    g_autofree char *parent = g_path_get_dirname(partial);
    g_autofree char *final = g_build_filename(parent, tag, NULL);
    g_autofree char *path = g_build_filename(partial, "manifest.json", NULL);
    Error *sync_err = NULL;

    if (!write_durably(path, manifest, errp) ||
        !hotsnap_folder_sync(partial, errp)) {
        unlink(path);
        return false;
    }
    /* Not over an existing bundle, however it came there. */
    if (renameat2(AT_FDCWD, partial, AT_FDCWD, final, RENAME_NOREPLACE)) {
        error_setg_errno(errp, errno, "Cannot rename '%s' to '%s'", partial,
                         final);
        unlink(path);
        return false;
    }
    if (!hotsnap_folder_sync(parent, &sync_err)) {
        warn_report_err(sync_err);
    }
    return true;
}

void hotsnap_bundle_remove_folder(const char *folder)
{
    g_autofree char *partial = g_path_get_dirname(folder);

    rmdir(folder);
    rmdir(partial); /* the last member's call succeeds; a late peer's, too */
}
