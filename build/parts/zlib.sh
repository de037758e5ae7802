# zlib, static: only the interpreter's module links it.
CFLAGS="-O3 -fPIC" ./configure --static --prefix="$DEST"
make -j"$JOBS" libz.a
make install
