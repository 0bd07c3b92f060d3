//go:build !linux

package cpu

// Only Linux takes advice on the size of pages.

func adviseHuge([]byte)  {}
func adviseSmall([]byte) {}
