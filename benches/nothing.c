/* The floor: a program in C that does nothing. */
int main(void)
{
	return 0;
}
