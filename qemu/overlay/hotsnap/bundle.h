/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A bundle's folders: DIRECTORY/TAG.partial/MEMBER while it is being made,
 * DIRECTORY/TAG once it exists. Workers only: all of it waits for storage.
 */
#ifndef HOTSNAP_BUNDLE_H
#define HOTSNAP_BUNDLE_H

/* @folder is a member's own, of a bundle that is being made. */
bool hotsnap_bundle_make_folder(const char *folder, Error **errp);

/*
 * The one instant at which the snapshot comes into being: TAG.partial is
 * renamed. All members' files are durable by now, and the manifest becomes
 * durable before the rename.
 */
bool hotsnap_bundle_publish(const char *folder, const char *tag,
                            const char *manifest, Error **errp);

/* Removes the folders, where they are empty. */
void hotsnap_bundle_remove_folder(const char *folder);

#endif
