"""Plugin `sriov`: an SR-IOV virtual function for a pod."""
