/* How fast libxml2 reads the documents of a directory: prints bytes per second, one round a line.
 * cc -O2 libxml2.c $(pkg-config --cflags --libs libxml-2.0); libxml2 DIRECTORY ROUNDS */

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <libxml/parser.h>

static void quiet(void *context, const char *format, ...) { (void)context; (void)format; }

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	static char *texts[10000];
	static int sizes[10000];
	int count = 0, taken = 0;
	double bytes = 0;
	struct dirent *entry;
	DIR *directory;

	if (argc != 3 || !(directory = opendir(argv[1])))
		return 2;
	while ((entry = readdir(directory)) && count < 10000) {
		size_t length = strlen(entry->d_name);
		char path[4096];
		FILE *file;

		if (length < 4 || strcmp(entry->d_name + length - 4, ".xml"))
			continue;
		snprintf(path, sizeof path, "%s/%s", argv[1], entry->d_name);
		if (!(file = fopen(path, "r")))
			continue;
		texts[count] = malloc(1 << 20);
		sizes[count] = fread(texts[count], 1, 1 << 20, file);
		bytes += sizes[count++];
		fclose(file);
	}
	xmlSetGenericErrorFunc(NULL, quiet);
	for (int round = atoi(argv[2]); round > 0; round--) {
		double began = now();

		for (int i = 0; i < count; i++) {
			xmlDocPtr document = xmlReadMemory(texts[i], sizes[i], "x", NULL, XML_PARSE_NOERROR | XML_PARSE_NOWARNING);

			taken += document != NULL;
			xmlFreeDoc(document);
		}
		printf("%.0f\n", bytes / (now() - began));
	}
	return !taken;
}
