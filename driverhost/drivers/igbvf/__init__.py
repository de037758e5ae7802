"""The virtual function of the Intel 82576, whose physical function has the kernel's driver igb."""
