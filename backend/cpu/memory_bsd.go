//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package cpu

func adviseHuge([]byte) {}
