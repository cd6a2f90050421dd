#!/bin/sh
# What the base needs before it runs a service: a user, compiled modules, and nothing that installs packages.
set -eu
printf 'offshelf:x:10001:\n' >> /etc/group
printf 'offshelf:x:10001:10001::/tmp:/usr/sbin/nologin\n' >> /etc/passwd
standard=$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
for folder in "${standard%/lib/*}/lib" /usr/lib /usr/share; do
  find "$folder" -xdev -depth \( -path '*-packages/pip*' -o -path '*-packages/setuptools*' -o -path '*-packages/wheel*' \
    -o -path '*-packages/pkg_resources*' -o -path '*-packages/*distutils*' -o -path '*/ensurepip/_bundled*' -o -path '*/python-wheels/*' \) -delete
done
rm -f /usr/bin/pip* /usr/local/bin/pip* /usr/local/bin/wheel
# Some builds of Python come without compiled modules, which would cost each start half a second on a read-only file system.
python -m compileall -q -j 0 -x '/(test|tests|idlelib|lib2to3|turtledemo|site-packages|dist-packages)/' "$standard"
