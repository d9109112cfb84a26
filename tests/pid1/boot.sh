# A machine that shares our kernel, with a systemd as its process 1: `sh boot.sh FOLDER ROOT NAME`, as root, in the
# network namespace that is to be the machine's.
#
# Its file system is ROOT with a memory disk on top, so nothing is changed and nothing stays; what lies in FOLDER/etc is
# there as well. FOLDER/run is its /run/xfrmi, and FOLDER/bind.sh mounts what else is to be there. It ends when its
# process 1 is killed, or when something of all this cannot be had; its control groups go with it.
set -eu
[ "${INSIDE-}" ] || INSIDE=1 exec unshare --mount sh -eu "$0" "$@"
folder=$1 root=$2 name=$3

mount --make-rprivate /
mkdir -p "$folder/groups" "$folder/disk"
mount -t cgroup2 groups "$folder/groups"
group=$folder/groups/xfrmi-$name-$$
before=$folder/groups$(sed -n 's/^0:://p' /proc/self/cgroup)
mkdir "$group"
clear_up() {
    echo $$ > "$before/cgroup.procs"
    find "$group" -depth -type d -exec rmdir {} +
}
trap clear_up EXIT
echo $$ > "$group/cgroup.procs"

mount -t tmpfs -o mode=755 disk "$folder/disk"
cd "$folder/disk"
mkdir upper work root
mount -t overlay -o "lowerdir=$root,upperdir=upper,workdir=work" machine root
cd root
# Of the services that ROOT has, none but those that systemd itself brings.
for place in etc/systemd/system etc/init.d; do
    mkdir -p $place
    mount -t tmpfs -o mode=755 tmpfs $place
done
: > etc/fstab
cp -r "$folder/etc" .
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir run/xfrmi
mount --bind "$folder/run" run/xfrmi
. "$folder/bind.sh"

mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/net dev/pts dev/shm
for device in null zero full random urandom tty net/tun; do
    : > dev/$device
    mount --bind /dev/$device dev/$device
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd

# What is to be process 1 finds itself at the top of a tree of processes and of one of control groups.
unshare --fork --kill-child --pid --uts --ipc --cgroup --mount sh -euc '
    mount -t proc proc proc
    mount -t sysfs -o ro sysfs sys # so that no udev wakes all devices of this machine
    mount -t cgroup2 groups sys/fs/cgroup
    hostname "$1"
    mkdir run/before
    pivot_root . run/before
    umount -l /run/before
    rmdir /run/before
    exec env -i container=xfrmi-test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --unit=multi-user.target --log-target=console --log-level=notice --show-status=0
' sh "$name" || true
