"""Programs of this host in a container: they run with their own libraries, wherever a container has /usr of the host."""

# Options of `docker run`.
BIND = ("-v", "/usr:/host:ro")
_LIBRARIES = "/host/lib/x86_64-linux-gnu"
# A shell function for the container: `host PROGRAM ARGUMENTS` with a path such as bin/perl.
SHELL = f"""
host() {{ p=$1; shift; XTABLES_LIBDIR={_LIBRARIES}/xtables {_LIBRARIES}/ld-linux-x86-64.so.2 --library-path {_LIBRARIES} "/host/$p" "$@"; }}
"""
# ATTRIBUTES.pl FILE NAME=VALUE...: sets extended attributes, then prints all that the file has, or why that failed. The numbers are those
# of setxattr(2), listxattr(2) and getxattr(2); no module of Perl is loaded.
_ATTRIBUTES = r"""
my ($path, @set) = @ARGV;
for (@set) { my ($name, $value) = split /=/, $_, 2; syscall(188, $path, $name, $value, length $value, 0) == 0 or print "$name: $!\n" }
my $names = "\0" x 4096;
my $size = syscall(194, $path, $names, 4096);
for my $name (sort split /\0/, substr($names, 0, $size)) {
    my $value = "\0" x 256;
    my $length = syscall(191, $path, $name, $value, 256);
    print "$name=", $length < 0 ? "$!" : substr($value, 0, $length), "\n";
}
"""


def attributes(path: str, *values: str) -> str:
    """A shell command, after SHELL: set extended attributes (`user.name=value`) of a file and print `NAME=VALUE` of all."""
    return f"host bin/perl -e '{_ATTRIBUTES}' {path} {' '.join(values)}"
