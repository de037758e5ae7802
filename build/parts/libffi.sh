# libffi, static, for ctypes, without which PyInstaller does not run. Debian's source comes without a configure script.
autoreconf --force --install
# The check of this links a file with a malformed .eh_frame, at which zig's linker never ends.
export libffi_cv_as_x86_64_unwind_section_type=no
./configure --disable-shared --with-pic --disable-docs --prefix="$DEST" --libdir="$DEST/lib" CCAS="$CC" CFLAGS=-O2
make -j"$JOBS"
make install
