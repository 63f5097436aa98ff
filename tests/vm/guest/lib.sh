# For jobs in the guest: . /usr/local/lib/gfxplane/lib.sh

# The modules of all the sample devices, a render node (vgem: Mesa's software renderer
# serves spice, dbus and egl-headless on it) and vfio. Nothing of them is loaded at boot.
# User Mode Linux has no GPU that our module's devices could hang on, so gfxplane_bus makes one.
load_modules() {
	modprobe -q gfxplane_bus || :
	modprobe -a vfio_iommu_type1 mdev vfio_pci vgem mdpy mbochs mtty gfxplane_samples
}

# create_mdev TYPE UUID: the type on whichever parent has it (mdpy-vga, mbochs-small,
# mtty-1, virtio-pci-region, …)
create_mdev() {
	local type
	for type in /sys/class/mdev_bus/*/mdev_supported_types/"$1"; do
		[ -e "$type/create" ] || { echo "create_mdev: nobody has type $1" >&2; return 1; }
		echo "$2" > "$type/create"
		return
	done
}

# parent_of TYPE: the sysfs name of the parent that has it (0000:00:04.0, mdpy, …)
parent_of() {
	local type
	for type in /sys/class/mdev_bus/*/mdev_supported_types/"$1"; do
		type=${type#/sys/class/mdev_bus/}
		echo "${type%%/*}"
		return
	done
}

remove_mdev() {
	echo 1 > "/sys/bus/mdev/devices/$1/remove"
}

# wait_for COMMAND…: until it succeeds, for at most $WAIT (300) seconds
wait_for() {
	local end=$((SECONDS + ${WAIT:-300}))
	until "$@" > /dev/null 2>&1; do
		if [ $SECONDS -ge $end ]; then
			echo "wait_for: in vain, for ${WAIT:-300} s: $*" >&2
			return 1
		fi
		sleep 0.2
	done
}

# Lets go of everybody who sleeps in the open of a hang device; "hold" makes it hang again.
release() {
	echo 1 > /sys/module/gfxplane_samples/parameters/release
}
hold() {
	echo 0 > /sys/module/gfxplane_samples/parameters/release
}

# libvirtd's AppArmor profile is loaded, and the running daemon is under it
apparmor_enforced() {
	grep -qx 'libvirtd (enforce)' /sys/kernel/security/apparmor/profiles &&
		grep -qx 'libvirtd (enforce)' "/proc/$(pidof libvirtd)/attr/current"
}

# Prints what AppArmor has denied since boot. With auditd running the kernel's log has
# none of it; auditd's own file has.
apparmor_denials() {
	{
		journalctl -b -o cat
		cat /var/log/audit/audit.log
	} 2> /dev/null | grep 'apparmor="DENIED"' | sort -u
}
