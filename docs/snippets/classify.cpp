// A picture's label by a shipped file alone: onnxruntime's C++ API, and nlohmann/json for the
// metadata. The picture is a binary PPM, RGB, already resized to the model's input by the rule of
// `input_spec`. Build: g++ -std=c++17 classify.cpp -lonnxruntime -o classify
#include <algorithm>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <onnxruntime_cxx_api.h>

int main(int, char** arguments) {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR);
  Ort::Session session(env, arguments[1], Ort::SessionOptions{});
  Ort::AllocatorWithDefaultOptions allocator;
  auto metadata = session.GetModelMetadata();
  auto read = [&](const char* key) {
    return nlohmann::json::parse(metadata.LookupCustomMetadataMapAllocated(key, allocator).get());
  };
  auto names = read("names"), spec = read("input_spec"), thresholds = read("thresholds");
  bool multi = read("task") == "multi";

  std::ifstream file(arguments[2], std::ios::binary);
  std::string kind;
  int64_t width, height, most;
  file >> kind >> width >> height >> most;
  if (kind != "P6" || width != spec["width"] || height != spec["height"] || most != 255)
    throw std::runtime_error("expected a P6 picture for " + spec.dump());
  file.get();  // the one blank after the header
  std::vector<char> pixels(std::istreambuf_iterator<char>(file), {});

  int64_t shape[] = {1, height, width, 3};
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto image = Ort::Value::CreateTensor(memory, pixels.data(), pixels.size(), shape, 4,
                                        ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
  const char *input = "image", *output = "prob";
  auto results = session.Run({}, &input, &image, 1, &output, 1);
  const float* prob = results[0].GetTensorData<float>();
  size_t best = std::max_element(prob, prob + names.size()) - prob;
  for (size_t i = 0; i < names.size(); ++i) {
    std::string name = names[i];
    if ((multi || i == best) && prob[i] >= thresholds.value(name, multi ? 0.5f : 0.0f))
      std::cout << name << ' ' << prob[i] << '\n';  // nothing where it abstains
  }
}
