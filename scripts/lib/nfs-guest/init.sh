#!/bin/bash
# PID 1 of the guest that guest.mjs starts: a kernel NFS server and two kernel NFS clients, then the command in /run/out/command.
# "/" is the host's, read-only; /run/out is a folder of the host, writable. Mounts: /run/nfs/{c1,c2}{v4,v3}; the server's own view: /run/export.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run/home LANG=C.UTF-8 TMPDIR=/run/tmp
umount /proc /sys 2>/dev/null
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmpfs /run
mkdir -p /run/{home,netns,nfs,export,out,tmp,m/lib/modules} /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
ln -s /proc/self/fd /dev/fd 2>/dev/null
kernel=$(uname -r)
mount -t hostfs -o "$GUEST_OUT" none /run/out
ln -s "/usr/lib/uml/modules/$kernel" "/run/m/lib/modules/$kernel"
. /run/out/env

finish() {
  echo "$1" > /run/out/exit-code
  sync
  echo o > /proc/sysrq-trigger
  sleep 10
}
trap 'finish 126' EXIT
die() {
  echo "guest: $*"
  finish 126
}

hostname nfs-guest
ip link set lo up
for module in ipv6 nfsd nfs nfsv3 nfsv4 veth sch_netem; do
  modprobe -d /run/m "$module" || die "no kernel module $module"
done

# Three hosts: the server is the guest itself; c1 and c2 are network namespaces with a cable to it each. A client has its own
# superblock and page cache in each, so that what one sees of the other is what two machines see.
number=1
for client in c1 c2; do
  ip netns add $client
  ip link add v$client type veth peer name eth0 netns $client
  ip addr add 10.0.$number.1/24 dev v$client
  ip link set v$client up
  ip -n $client addr add 10.0.$number.2/24 dev eth0
  ip -n $client link set eth0 up
  ip -n $client link set lo up
  number=$((number + 1))
done

if [ -n "$GUEST_DISK" ]; then # for what memory has no room for; nothing on it outlives the guest
  mknod /run/ubda b 98 0
  mkdir /run/disk
  mkfs.ext4 -q -O ^has_journal -E lazy_itable_init=1,nodiscard /run/ubda || die "no file system was made on the disk"
  mount -t ext4 -o noatime,nobarrier /run/ubda /run/disk || die "the disk was not mounted"
  mkdir /run/disk/{export,tmp}
  mount --bind /run/disk/export /run/export
  mount --bind /run/disk/tmp /run/tmp
else
  mount -t tmpfs -o "size=${NFS_GUEST_EXPORT_SIZE:-700m}" tmpfs /run/export
fi
mount -t tmpfs tmpfs /var/lib/nfs
mkdir -p /var/lib/nfs/{rpc_pipefs,v4recovery,sm,sm.bak,nfsdcltrack}
: > /var/lib/nfs/etab
: > /var/lib/nfs/rmtab
mount -t nfsd nfsd /proc/fs/nfsd
mount -t rpc_pipefs rpc /var/lib/nfs/rpc_pipefs
echo 10 > /proc/fs/nfsd/nfsv4leasetime
echo 10 > /proc/fs/nfsd/nfsv4gracetime
rpcbind -w || die "rpcbind did not start"
exportfs -o rw,sync,no_root_squash,insecure,fsid=0,no_subtree_check '*:/run/export' || die "exportfs failed"
rpc.mountd || die "rpc.mountd did not start"
rpc.statd --no-notify 2>/dev/null
rpc.nfsd -V 3 -V 4 8 || die "rpc.nfsd did not start"
echo Y > /proc/fs/nfsd/v4_end_grace

number=1
for client in c1 c2; do
  inside=(nsenter "--net=/run/netns/$client" --)
  # Both have one hostname: with one identifier, too, the server would take each client's call for a restart of the other.
  "${inside[@]}" unshare -m sh -c "mount -t sysfs s /sys && echo $client > /sys/fs/nfs/net/nfs_client/identifier" ||
    die "$client got no identifier"
  mkdir -p /run/nfs/${client}v4 /run/nfs/${client}v3
  "${inside[@]}" timeout 20 mount -t nfs -o vers=4.2,proto=tcp 10.0.$number.1:/ /run/nfs/${client}v4 ||
    die "NFS 4.2 of $client was not mounted"
  "${inside[@]}" timeout 20 mount -t nfs -o vers=3,proto=tcp,nolock 10.0.$number.1:/run/export /run/nfs/${client}v3 ||
    die "NFS 3 of $client was not mounted"
  number=$((number + 1))
done

cd "$(cat /run/out/folder)" || die "the command's folder is not there"
bash -c "$(cat /run/out/command)" < /dev/null
code=$?
trap - EXIT
finish $code
