# CPython with a shared libpython. A plugin's call is its start: the modules that each call needs are in libpython, where
# no file is opened and no library is loaded for them.
cat >Modules/Setup.local <<'END'
*static*
_json _json.c
_random _randommodule.c
_socket socketmodule.c
_struct _struct.c
binascii binascii.c
fcntl fcntlmodule.c
grp grpmodule.c
math mathmodule.c
select selectmodule.c
END
export PKG_CONFIG_LIBDIR=/nonexistent # what the build machine has is for another glibc
ZLIB_CFLAGS="-I$ZLIB/include" ZLIB_LIBS="-L$ZLIB/lib -lz" \
    LIBFFI_CFLAGS="-I$LIBFFI/include" LIBFFI_LIBS="-L$LIBFFI/lib -lffi" \
    CFLAGS="-fno-semantic-interposition -ffile-prefix-map=$PWD=." OPT="-DNDEBUG -O3 -Wall" \
    ./configure --prefix=/opt/python --enable-shared --without-static-libpython --disable-test-modules \
    --with-ensurepip=no --with-openssl="$OPENSSL"
cp "$OPENSSL"/lib/lib*.so.3 . # where make looks for libpython when it imports each module
# Without libpython3.so, which nothing here uses: zig links no library that has only libraries in it.
make -j"$JOBS" all PY3LIBRARY=
make install DESTDIR="$DEST/installed" PY3LIBRARY=
mv "$DEST/installed/opt/python"/* "$DEST/"
rm -r "$DEST/installed"
cp "$OPENSSL"/lib/lib*.so.3 "$DEST/lib/"
