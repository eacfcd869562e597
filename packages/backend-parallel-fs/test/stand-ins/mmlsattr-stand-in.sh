#!/bin/sh
# A stand-in for Storage Scale's `mmlsattr -L FOLDER`: everything is in the fileset $GPFS_FILESET.
cat <<END
file name:            $2
metadata replication: 1 max 2
data replication:     1 max 2
immutable:            no
appendOnly:           no
flags:
storage pool name:    system
fileset name:         $GPFS_FILESET
snapshot name:
creation time:        Mon Nov 23 10:00:00 2026
Misc attributes:      DIRECTORY
Encrypted:            no
END
