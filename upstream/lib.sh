# For the scripts of this directory: a chroot of a Debian suite with the source of one of its packages.
# Everything is below $GFXPLANE_UPSTREAM (/tmp/gfxplane-upstream), nothing in the checkout.

top=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
cache=${GFXPLANE_UPSTREAM:-/tmp/gfxplane-upstream}

die() {
	echo "${0##*/}: $*" >&2
	exit 1
}

# in_chroot ROOT root|builder COMMAND…: runs it in the chroot's /build, with /proc, /dev and the network.
in_chroot() {
	local root=$1 user=$2
	shift 2
	local run=(env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/build DEBIAN_FRONTEND=noninteractive)
	[ "$user" = root ] || run=(setpriv --reuid=1000 --regid=1000 --clear-groups "${run[@]}")
	# shellcheck disable=SC2016 # the inner shell expands them
	unshare --mount --pid --fork sh -c '
		root=$1
		shift
		mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" && exec chroot "$root" "$@"
	' sh "$root" sh -c 'cd /build && exec "$@"' sh "${run[@]}" "$@"
}

# chroot_of SUITE: makes the chroot if there is none, and prints its path.
chroot_of() {
	local suite=$1 root=$cache/$1/root mirror options=()
	if [ ! -d "$root" ]; then
		[ "$(id -u)" = 0 ] || die "only root can make a chroot of $suite"
		command -v mmdebstrap > /dev/null || die "there is no mmdebstrap: apt-get install mmdebstrap"
		mirror=${GFXPLANE_VM_MIRROR:-$("$top/../tests/vm/mirror")} || die "no Debian mirror is known"
		# sid's Release file may be older than it promises on a mirror that is not asked often
		[ "$suite" != sid ] || options+=(--aptopt='Acquire::Check-Valid-Until "false"')
		mkdir -p "$cache/$suite"
		rm -rf "$root.tmp"
		mmdebstrap --mode=root --variant=apt --include=build-essential,ca-certificates \
			--aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io "${options[@]}" \
			"$suite" "$root.tmp" "deb $mirror $suite main" "deb-src $mirror $suite main" >&2 ||
			die "the chroot of $suite could not be made"
		cp /etc/resolv.conf "$root.tmp/etc/resolv.conf"
		echo builder:x:1000:1000::/build:/bin/sh >> "$root.tmp/etc/passwd"
		echo builder:x:1000: >> "$root.tmp/etc/group"
		install -d -o 1000 -g 1000 "$root.tmp/build"
		mv "$root.tmp" "$root"
	fi
	echo "$root"
}

# source_of ROOT PACKAGE DIRECTORY: unpacks the source package of the chroot's suite anew, and prints its path in the
# chroot. DIRECTORY/SUITE/touched has the checksums of the files that our patches touch, as the package has them.
source_of() {
	local root=$1 package=$2 directory=$3 suite tree
	suite=$(basename "$(dirname "$root")")
	in_chroot "$root" root apt-get -qq update >&2 || die "apt-get update failed in $root"
	# Not by its .dsc: a mirror may lack that of an older version. apt checks both archives against its signed lists.
	in_chroot "$root" builder sh -euc '
		rm -rf "$1"_* "$1"-[0-9]*
		apt-get source -qq --download-only --tar-only "$1"
		apt-get source -qq --download-only --diff-only "$1"
		tar -xaf "$1"_*.orig.tar.?z
		tar -xaf "$1"_*.debian.tar.xz -C "$1"-[0-9]*/
		dpkg-source --before-build "$1"-[0-9]*/
	' sh "$package" >&2 || die "the source package of $package could not be fetched"
	tree=$(cd "$root/build" && echo "$package"-[0-9]*/)
	tree=/build/${tree%/}
	(cd "$root$tree" && sha256sum --check --quiet "$directory/$suite/touched") ||
		die "$package of $suite is not $(cat "$directory/$suite/version") any more, for which the patches are made"
	echo "$tree"
}

# put_files ROOT TREE DIRECTORY: copies DIRECTORY/files as it is.
put_files() {
	cp -r --no-dereference --preserve=mode,links "$3/files/." "$1$2/"
	chown -R 1000:1000 "$1$2"
}

# apply ROOT TREE PATCH. The patches have no context, so that a line is all that says where they go.
apply() {
	(cd "$1$2" && git apply --unidiff-zero "$3") || die "${3##*/} does not apply"
	chown -R 1000:1000 "$1$2"
}

# build_dependencies ROOT TREE [NAME…]: installs what TREE's debian/control asks for, but the packages NAME (globs),
# which serve parts that are not built.
build_dependencies() {
	local root=$1 tree=$2
	shift 2
	python3 "$top/build-depends" "$root$tree/debian/control" "$@" > "$root/build/needed" ||
		die "debian/control can't be read"
	install -d "$root/build/control/debian"
	cp "$root/build/needed" "$root/build/control/debian/control"
	in_chroot "$root" root apt-get -qq -y build-dep ./control >&2 || die "the build dependencies can't be installed"
}
