# Shared by the maintainer scripts: packaging/build-deb puts it at their head.

# What the package has made is noted here, since only that is removed again.
# Root's own directory: the service's user must not be able to add to it.
notes=/var/lib/tsa-sidecar-package
etc=/opt/kumomta/etc
overlays=$etc/tsa-sidecar
unit=tsa-sidecar.service

note() {
	install -d -m 0755 "$notes"
	: >"$notes/$1"
}

noted() {
	[ -e "$notes/$1" ]
}

has_systemd() {
	[ -d /run/systemd/system ]
}

# As the service's own user: its directory may hold symbolic links of its making.
as_sidecar() {
	runuser -u tsa-sidecar -- "$@"
}
