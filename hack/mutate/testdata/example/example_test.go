package example

import "testing"

func TestSum(t *testing.T) {
	if sum, err := Sum([]int{1, 2, 30}, 10); sum != 3 || err != nil {
		t.Error(sum, err)
	}
	if _, err := Sum([]int{-1}, 10); err == nil {
		t.Error("no error")
	}
	if sum, err := Sum([]int{0, 1}, 10); sum != 1 || err != nil {
		t.Error(sum, err)
	}
}

func TestWait(t *testing.T) {
	if Wait(3) != 3 {
		t.Error("too few")
	}
}

func TestShift(t *testing.T) {
	if Shift(8, 2) != 11 {
		t.Error(Shift(8, 2))
	}
}
