#!/bin/sh
# A stand-in for Storage Scale's `mmlsfs DEVICE -Y`: a file system with blocks of $GPFS_BLOCK in subblocks of $GPFS_SUBBLOCK bytes.
if [ -z "$GPFS_BLOCK" ]; then
  echo "mmlsfs: File system $1 is not known to the GPFS cluster." >&2
  exit 1
fi
cat <<END
mmlsfs::HEADER:version:reserved:reserved:deviceName:fieldName:data:remarks:
mmlsfs::0:1:::$1:minFragmentSize:$GPFS_SUBBLOCK::
mmlsfs::0:1:::$1:inodeSize:4096::
mmlsfs::0:1:::$1:blockSize:$GPFS_BLOCK::
mmlsfs::0:1:::$1:defaultMountPoint:%2Fgpfs%2F$1::
END
