/* What TensorRT's Python module needs from TensorRT's libraries to be imported, and nothing more.
 *
 * libnvinfer itself cannot be had from a package index, its Python module can. That module asks its
 * libraries for a few C functions by name, all else goes through virtual tables of objects that
 * these functions make. Here they make none: the module's classes, properties, enums and
 * signatures are real, and Runtime(), Builder() fail. Compiled under each name that the modules ask
 * for (libnvinfer.so.8, libnvonnxparser.so.10, ...).
 *
 * Symbols: `nm -D --undefined-only tensorrt.so` of the bindings 8.6.1 to 11.4. The four with mangled
 * names are the Caffe and UFF parsers of 8.6.
 */
#include <stddef.h>

#define NO_OBJECT(name) \
  void *name(void) { return NULL; }

int getNvOnnxParserVersion(void) { return 0; }
int getInferLibVersion(void) { return 0; }
int initLibNvInferPlugins(void) { return 0; }
NO_OBJECT(createInferBuilder_INTERNAL)
NO_OBJECT(createInferRuntime_INTERNAL)
NO_OBJECT(createInferRefitter_INTERNAL)
NO_OBJECT(createNvOnnxParser_INTERNAL)
NO_OBJECT(createNvOnnxParserRefitter_INTERNAL)
NO_OBJECT(getPluginRegistry)
NO_OBJECT(getBuilderPluginRegistry)
NO_OBJECT(_ZN14nvcaffeparser117createCaffeParserEv)
NO_OBJECT(_ZN14nvcaffeparser123shutdownProtobufLibraryEv)
NO_OBJECT(_ZN11nvuffparser15createUffParserEv)
NO_OBJECT(_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi)
